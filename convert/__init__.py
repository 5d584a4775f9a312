"""`python -m convert`: converts weights and compares the result with the PyTorch original, stage by stage."""
