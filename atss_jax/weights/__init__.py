"""Weights from elsewhere: .pth files, mmdetection and torchvision names."""
