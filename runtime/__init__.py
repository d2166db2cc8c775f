"""Tensors: launching, autograd, the CPU default and the reference."""
