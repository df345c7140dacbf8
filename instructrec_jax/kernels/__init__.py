"""Attention kernels: one reference, and what is faster on one backend.

A kernel is a pure function of arrays; which one runs is the choice of a layout
(`seq2seq.layouts`), by the model's config.
"""
