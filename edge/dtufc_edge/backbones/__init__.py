"""Backbones: input -> features at the split, one module a family of models.

A family is a class that is built from a folder of weights, a profile, a device and a dtype, and that an entry of the
group `dtufc.backbones` names. What it can do it says by the protocols of `dtufc.models.capabilities`.
"""
