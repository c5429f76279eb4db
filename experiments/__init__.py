"""Studies of readouts, modalities and hidden states."""
