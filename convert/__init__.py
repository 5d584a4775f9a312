"""`python -m convert`: converts weights and proves the result against the PyTorch original, stage by stage."""
