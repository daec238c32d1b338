"""Checkpoints of other programs: PyTorch, safetensors, mmdetection, torchvision."""
