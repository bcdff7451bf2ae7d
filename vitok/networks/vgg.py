"""VGG16's convolutions, cut where LPIPS looks.

Axes: N images, C channels, H height, W width.
"""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

VGG16_CHANNELS = (64, 128, 256, 512, 512)
"""Of relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3."""

_CONVOLUTIONS = (2, 2, 3, 3, 3)


class Vgg16(nn.Module):
    """Configuration D of Simonyan & Zisserman (arXiv:1409.1556) up to relu5_3, frozen, with torchvision's names.

    Gradients flow to the images, not to the weights. Made with random weights; `load_weights("vgg16")` has real ones.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self._ends: list[int] = []
        in_channels = 3
        for out_channels, convolutions in zip(VGG16_CHANNELS, _CONVOLUTIONS, strict=True):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                layers += [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True)]
                in_channels = out_channels
            self._ends.append(len(layers))
        self.features = nn.Sequential(*layers)
        self.requires_grad_(False)

    def slices(self) -> Iterator[nn.Sequential]:
        """The five parts, each from the map before it to its own; run one after the other they are the network."""
        layers = list(self.features)
        for start, end in zip([0, *self._ends], self._ends, strict=False):
            yield nn.Sequential(*layers[start:end])

    def take_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the convolutions out of a VGG16 state dict, with or without its classifier.

        Raises:
            RuntimeError: A convolution is missing or of another shape.
        """
        self.load_state_dict({name: tensor for name, tensor in tensors.items() if name.startswith("features.")})
