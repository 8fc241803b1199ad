"""The demo network. Imported only when the demo is built: it needs torch at import."""

from __future__ import annotations

import torch
from torch import nn

CLASSES = tuple(str(digit) for digit in range(10))
INPUT_SHAPE = (1, 1, 8, 8)


def _conv_bn(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Basic block of He et al. 2015: two 3x3 convolutions around an identity shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv_bn(channels, channels, 3)
        self.second = _conv_bn(channels, channels, 3)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.act(x + self.second(self.act(self.first(x))))
        return out


class Separable(nn.Module):
    """Depthwise then pointwise convolution (Howard et al. 2017), each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.depthwise = _conv_bn(inputs, inputs, 3, stride=stride, groups=inputs)
        self.pointwise = _conv_bn(inputs, outputs, 1)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.act(self.pointwise(self.act(self.depthwise(x))))
        return out


class DigitsNet(nn.Module):
    """Digit classifier: input (n, 1, 8, 8) float32 in 0..1 (pixel / 16), output (n, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn(1, 48, 3)
        self.act = nn.ReLU()
        self.wide = Residual(48)
        self.down = Separable(48, 96, stride=2)
        self.deep = Residual(96)
        self.last = Separable(96, 128, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.wide(self.act(self.stem(image)))
        x = self.last(self.deep(self.down(x)))
        logits: torch.Tensor = self.classifier(self.pool(x).flatten(1))
        return logits
