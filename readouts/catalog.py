"""The readouts by name. To add one, write a subclass of `Readout` and add it to the table."""

from .base import Readout
from .discriminative import DiscriminativeReadout
from .generative import GenerativeReadout

READOUTS: dict[str, type[Readout]] = {readout.name: readout for readout in (DiscriminativeReadout, GenerativeReadout)}
