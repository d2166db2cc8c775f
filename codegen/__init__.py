"""Kernels: facts to plan to source. Never imports torch."""
