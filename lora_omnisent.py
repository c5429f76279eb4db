"""LoRA layers, gated MLPs and RMS norms that keep less for the backward pass, and compute the same.

PEFT's layer keeps, in each of the seven projections, its input after dropout in float32, and the mask. Here the input itself is
kept, once for all projections that read it, and the mask is drawn again from its seed. Of a gated MLP, gate and up are kept, and
what is computed from them element by element is computed again; of a norm, its input instead of a float32 copy. Without gradients,
and under `torch.compile`, which decides itself what to keep, the layers are PEFT's and transformers' own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from peft.tuners import lora
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .family_omnisent import ThinkerFamily
from .towers_omnisent import with_mixin


class Recipe(NamedTuple):
    """How a tensor is computed again, from others that are kept in any case."""

    make: Callable[..., torch.Tensor]
    parts: tuple[torch.Tensor, ...]


def keep_less(model: nn.Module, family: ThinkerFamily) -> None:
    """Let LoRA layers, gated MLPs and norms of a family's model keep less for the backward pass; parameters and names stay."""
    for module in model.modules():
        if isinstance(module, lora.LoraLayer) and isinstance(module.get_base_layer(), nn.Linear):
            module.__class__ = with_mixin(_LoraLinear, type(module))
        elif isinstance(module, family.gated_mlps):
            module.__class__ = with_mixin(_GatedMLP, type(module))
        elif isinstance(module, family.rms_norms):
            module.__class__ = with_mixin(_RMSNorm, type(module))


def new_seed() -> int:
    """A seed from torch's global generator on the CPU, which checkpointing and resumption restore."""
    return int(torch.randint(2**62, ()))


def kept_mask(x: torch.Tensor, probability: float, seed: int) -> torch.Tensor:
    """The mask of a seed, true where x is kept; of 16 random bits a value, several times faster on a CPU than `bernoulli_`."""
    generator = torch.Generator(x.device).manual_seed(seed)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    bits = draws.random_(-(2**63), None, generator=generator).view(torch.int16)[: x.numel()]
    return (bits >= round(probability * 2**16) - 2**15).view(x.shape)


def dropped(x: torch.Tensor, probability: float, mask: torch.Tensor | None) -> torch.Tensor:
    """Dropout of a tensor of any shape with a mask; unchanged without one."""
    return x if mask is None else (x * mask).mul_(1 / (1 - probability))


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
            _with_autograd()
            and not self.disable_adapters
            and not self.merged
            and len(names) == 1
            and names[0] in self.lora_A
            and names[0] not in self.lora_variant
            and not self.lora_bias[names[0]]
            and isinstance(self.lora_dropout[names[0]], (nn.Dropout, nn.Identity))
        )


class _GatedMLP:
    """In front of an MLP `down(act(gate(x)) * up(x))`."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        if not _with_autograd():
            return super().forward(x)  # type: ignore[misc]
        gate, up = self.gate_proj(x), self.up_proj(x)
        product = _GatedProduct.apply(self.act_fn, gate, up)
        recipe = Recipe(partial(_gated, self.act_fn), (gate.detach(), up.detach()))
        return self.down_proj(product, **({"recipe": recipe} if isinstance(self.down_proj, _LoraLinear) else {}))


class _RMSNorm:
    """In front of an RMS norm that computes in float32, `weight * (x / rms).to(x.dtype)`."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        if not _with_autograd() or self.weight.requires_grad:
            return super().forward(x)  # type: ignore[misc]
        return self.weight * _Normalised.apply(x, self.variance_epsilon)


class _Update(torch.autograd.Function):
    """`dropout(x) A^T B^T * scaling` for x (..., in), A (r, in) and B (out, r); keeps the parts that x is made of."""

    @staticmethod
    def forward(ctx, x, down, up, scaling, probability, dtype, make, *parts):
        ctx.seed = new_seed() if probability else 0
        ctx.settings = scaling, probability, dtype, make
        with torch.autocast(x.device.type, enabled=False):
            mask = kept_mask(x, probability, ctx.seed) if probability else None
            low = functional.linear(dropped(x.to(down.dtype), probability, mask).to(dtype), down.to(dtype))
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
            mask = kept_mask(x, probability, ctx.seed) if probability else None
            x = dropped(x.to(down.dtype), probability, mask).to(dtype)
            of_down = of_low.T @ x.flatten(0, -2)
            del x
            of_x = None
            if ctx.needs_input_grad[0]:
                of_x = dropped((of_low @ down.to(dtype)).to(down.dtype).view(shape), probability, mask).to(x_dtype)
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


class _Normalised(torch.autograd.Function):
    """`x / rms(x)` of x (..., H), computed in float32; keeps x and 1 / rms."""

    @staticmethod
    def forward(ctx, x, epsilon):
        of_float = x.float()
        inverse = torch.rsqrt(of_float.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, inverse)
        return (of_float * inverse).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, inverse = ctx.saved_tensors
        gradient, normalised = gradient.float(), x.float() * inverse
        of_x = gradient - normalised * (gradient * normalised).mean(-1, keepdim=True)
        return of_x.mul_(inverse).to(x.dtype), None


def _with_autograd() -> bool:
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _gated(act: Callable[[torch.Tensor], torch.Tensor], gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return act(gate) * up


def _itself(x: torch.Tensor) -> torch.Tensor:
    return x
