"""Flax Linen modules, arrays in and arrays out: ResNet, FPN, ATSS head, detector."""
