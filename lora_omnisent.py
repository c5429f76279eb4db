"""LoRA layers and gated MLPs that keep less for the backward pass, and compute the same.

PEFT's layer keeps, in each of the seven projections, its input after dropout in float32, and the mask. Here the input itself is kept,
once for all projections that read it, and the mask is drawn again from its seed. Of a gated MLP, gate and up are kept, and what is
computed from them element by element is computed again. Without gradients, and under `torch.compile`, which decides itself what to
keep, the layers are PEFT's and transformers' own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from peft.tuners import lora
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .thinker_omnisent import GATED_MLPS


class Recipe(NamedTuple):
    """How a tensor is computed again, from others that are kept in any case."""

    make: Callable[..., torch.Tensor]
    parts: tuple[torch.Tensor, ...]


def keep_less(model: nn.Module) -> None:
    """Let the LoRA layers of a model, and its gated MLPs, keep less for the backward pass; their parameters and names stay."""
    for module in model.modules():
        if isinstance(module, lora.LoraLayer) and isinstance(module.get_base_layer(), nn.Linear):
            module.__class__ = _with(_LoraLinear, type(module))
        elif isinstance(module, GATED_MLPS):
            module.__class__ = _with(_GatedMLP, type(module))


def new_seed() -> int:
    """A seed from torch's global generator on the CPU, which checkpointing and resumption restore."""
    return int(torch.randint(2**62, ()))


def dropped(x: torch.Tensor, probability: float, seed: int) -> torch.Tensor:
    """Dropout of a tensor of any shape, with the mask of a seed; a probability in [0, 1)."""
    if not probability:
        return x
    generator = torch.Generator(x.device).manual_seed(seed)
    kept = torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - probability, generator=generator)
    return (x * kept).mul_(1 / (1 - probability))


class _LoraLinear:
    """In front of PEFT's layer around an `nn.Linear` or one of its quantised subclasses."""

    def forward(self: Any, x: torch.Tensor, *args: Any, recipe: Recipe | None = None, **kwargs: Any) -> torch.Tensor:
        if not self._keeps_less or args or kwargs:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]
        (name,) = self.active_adapters
        result = self.base_layer(x)
        dropout = self.lora_dropout[name]
        probability = dropout.p if self.training and isinstance(dropout, nn.Dropout) else 0.0
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        autocast = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if autocast else down.dtype
        make, parts = recipe or Recipe(_itself, (x.detach(),))
        update = _Update.apply(x, down, up, self.scaling[name], probability, dtype, make, *parts)
        if not isinstance(self, lora.Linear):
            update = update.to(result.dtype)  # PEFT's layers around quantised ones round it before the sum
        return (result + update).to(result.dtype)

    @property
    def _keeps_less(self: Any) -> bool:
        """Whether this forward pass is one of a single plain adapter with gradients."""
        names = self.active_adapters
        return (
            torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not self.disable_adapters
            and not self.merged
            and len(names) == 1
            and names[0] in self.lora_A
            and names[0] not in self.lora_variant
            and not self.lora_bias[names[0]]
        )


class _GatedMLP:
    """In front of an MLP `down(act(gate(x)) * up(x))`."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x)  # type: ignore[misc]
        gate, up = self.gate_proj(x), self.up_proj(x)
        product = _GatedProduct.apply(self.act_fn, gate, up)
        recipe = Recipe(partial(_gated, self.act_fn), (gate.detach(), up.detach()))
        return self.down_proj(product, **({"recipe": recipe} if isinstance(self.down_proj, _LoraLinear) else {}))


class _Update(torch.autograd.Function):
    """`dropout(x) A^T B^T * scaling` for x (..., in), A (r, in) and B (out, r); keeps the parts that x is made of."""

    @staticmethod
    def forward(ctx, x, down, up, scaling, probability, dtype, make, *parts):
        ctx.seed = new_seed() if probability else 0
        ctx.settings = scaling, probability, dtype, make
        with torch.autocast(x.device.type, enabled=False):
            low = functional.linear(dropped(x.to(down.dtype), probability, ctx.seed).to(dtype), down.to(dtype))
            ctx.save_for_backward(down, up, low, *parts)
            return functional.linear(low, up.to(dtype)) * scaling

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        down, up, low, *parts = ctx.saved_tensors
        scaling, probability, dtype, make = ctx.settings
        with torch.autocast(gradient.device.type, enabled=False):
            gradient = (gradient * scaling).flatten(0, -2)  # (N, out)
            of_low = gradient @ up.to(dtype)  # (N, r)
            of_up = gradient.T @ low.flatten(0, -2)
            del gradient
            x = make(*parts)
            shape, x_dtype = x.shape, x.dtype
            x = dropped(x.to(down.dtype), probability, ctx.seed).to(dtype)
            of_down = of_low.T @ x.flatten(0, -2)
            del x
            of_x = None
            if ctx.needs_input_grad[0]:
                of_x = dropped((of_low @ down.to(dtype)).to(down.dtype).view(shape), probability, ctx.seed).to(x_dtype)
        return of_x, of_down.to(down.dtype), of_up.to(up.dtype), None, None, None, None, *(None for _ in parts)


class _GatedProduct(torch.autograd.Function):
    """`act(gate) * up`; keeps gate and up alone."""

    @staticmethod
    def forward(ctx, act, gate, up):
        ctx.act = act
        ctx.save_for_backward(gate, up)
        return _gated(act, gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            activated = ctx.act(gate)
            (of_gate,) = torch.autograd.grad(activated, gate, gradient * up)
        return None, of_gate, gradient * activated.detach()


def _gated(act: Callable[[torch.Tensor], torch.Tensor], gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return act(gate) * up


def _itself(x: torch.Tensor) -> torch.Tensor:
    return x


def _with(mixin: type, base: type) -> type:
    return base if issubclass(base, mixin) else type(base.__name__, (mixin, base), {"__module__": base.__module__})
