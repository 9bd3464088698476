import torch
from torch import nn


class Ghost(nn.Module):
    def __init__(self, layer):
        super().__init__()
        rest, kernel = layer.outputs // 2, layer.kernel
        dense = nn.Conv2d(layer.inputs, layer.outputs - rest, 1, layer.stride, bias=False)
        cheap = nn.Conv2d(rest, rest, kernel, padding=kernel // 2, groups=rest, bias=False)
        self.dense = nn.Sequential(dense, nn.BatchNorm2d(layer.outputs - rest), nn.ReLU())
        self.cheap = nn.Sequential(cheap, nn.BatchNorm2d(rest), nn.ReLU())

    def forward(self, images):
        dense = self.dense(images)
        return torch.cat([dense, self.cheap(dense[:, : self.cheap[0].in_channels])], 1)
