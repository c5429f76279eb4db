"""Studies: what is only there to find something out about readouts, modalities and hidden states."""
