"""Pictures to image codes and back, and larger, in plain PyTorch: one file and weights.

    pixels = Pixels("vqgan")                    # config.json and model.safetensors
    codes = pixels.encode("picture.png")        # int64[1, P], in [0, codebook size)
    pixels.decode(codes)[0].save("again.png")   # a PIL image for each row
    Upscaler("upscaler").enlarge("again.png")   # where there is one: a larger PIL image

Needs torch, numpy, Pillow and safetensors. Every conversion copies this file, as it is,
beside the weights; nothing of this package imports it.

Letters: B pictures, C channels, Y and X rows and columns, P codes a picture.
"""

import json
import pathlib

import numpy as np
import safetensors.torch
import torch  # pyright: ignore[reportMissingImports]  # an extra, not always there
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from PIL import Image
from torch import nn  # pyright: ignore[reportMissingImports]


class Pixels(nn.Module):
    """A trained VQGAN: encoder, codebook, decoder."""

    def __init__(self, folder):
        """Reads the weights; raises if they are not those that config.json describes."""
        super().__init__()
        folder = pathlib.Path(folder)
        config = json.loads((folder / "config.json").read_text())["model"]
        self.config = config
        latent, width = config["latent_channels"], config["code_dim"]
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(latent, width, 1)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(config["codebook_size"], width)
        self.post_quant_conv = nn.Conv2d(width, latent, 1)
        self.decoder = Decoder(config)
        stride = config["patch_size"] * 2 ** (len(config["multipliers"]) - 1)
        self.side = config["image_size"] // stride
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        self.load_state_dict(weights, strict=True)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, picture):
        """Returns codes int64[1, P], row by row, of a PIL image or the path of one."""
        if not isinstance(picture, Image.Image):
            picture = Image.open(picture)
        picture = fit(picture.convert("RGB"), self.config["image_size"])
        levels = torch.from_numpy(np.asarray(picture).copy()).float() / 127.5 - 1
        x_BCYX = self.quant_conv(self.encoder(levels.permute(2, 0, 1)[None]))
        latents = x_BCYX.permute(0, 2, 3, 1).flatten(0, 2)
        entries = self.entries()
        if self.config["use_l2_norm"]:
            latents = unit(latents)
        distances = (entries * entries).sum(-1) - 2 * latents @ entries.T
        return distances.argmin(-1)[None]

    @torch.no_grad()
    def decode(self, codes_BP):
        """Returns a list of PIL images, one for each row of codes."""
        vectors = self.entries()[codes_BP]
        x_BCYX = vectors.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        levels = (self.decoder(self.post_quant_conv(x_BCYX)) + 1) * 127.5
        bytes_BYXC = levels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(one) for one in bytes_BYXC]

    def entries(self):
        """The codebook as it is compared and decoded."""
        table = self.quantize.embedding.weight
        return unit(table) if self.config["use_l2_norm"] else table


class Upscaler(nn.Module):
    """A trained super-resolution network: residual-in-residual dense blocks."""

    def __init__(self, folder):
        """Reads the weights; raises if they are not those that config.json describes."""
        super().__init__()
        folder = pathlib.Path(folder)
        config = json.loads((folder / "config.json").read_text())["model"]
        self.config, width = config, config["channels"]
        self.patch_size = 4 // config["scale"]
        self.conv_first = conv(3 * self.patch_size**2, width, 3)
        growth = config["growth_channels"]
        self.body = nn.ModuleList()
        for _ in range(config["num_blocks"]):
            block = nn.Module()
            block.rdb = nn.ModuleList(Dense(width, growth) for _ in range(3))
            self.body.append(block)
        for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
            setattr(self, name, conv(width, width, 3))
        self.conv_last = conv(width, 3, 3)
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        self.load_state_dict(weights, strict=True)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def enlarge(self, picture):
        """Returns a PIL image, its sides `scale` times as long, of one or its path."""
        if not isinstance(picture, Image.Image):
            picture = Image.open(picture)
        scale, s = self.config["scale"], self.patch_size
        width, height = picture.size
        levels = torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).float()
        x_BCYX = levels.permute(2, 0, 1)[None] / 255
        x_BCYX = F.pad(x_BCYX, (0, -width % s, 0, -height % s), mode="replicate")
        y_BCYX = self(x_BCYX)[..., : scale * height, : scale * width] * 255
        bytes_YXC = y_BCYX[0].round().clamp(0, 255).byte().permute(1, 2, 0)
        return Image.fromarray(bytes_YXC.numpy())

    def forward(self, x_BCYX):
        """Returns float[B, 3, scale Y, scale X], about in [0, 1]."""
        h = first = self.conv_first(fold(x_BCYX, self.patch_size))
        for block in self.body:
            inner = h
            for dense in block.rdb:
                inner = dense(inner)
            h = h + 0.2 * inner
        h = first + self.conv_body(h)
        for layer in (self.conv_up1, self.conv_up2):
            h = layer(F.interpolate(h, scale_factor=2.0, mode="nearest"))
            h = F.leaky_relu(h, 0.2)
        h = self.conv_last(F.leaky_relu(self.conv_hr(h), 0.2))
        if self.config["use_bicubic_base"]:
            y, x = (bicubic(side, self.config["scale"]) for side in x_BCYX.shape[2:])
            h = h + y @ x_BCYX @ x.T
        return h


class Dense(nn.Module):
    """Five convolutions, each of which sees the outputs of all before it."""

    def __init__(self, width, growth):
        super().__init__()
        outputs = [growth] * 4 + [width]
        self.conv = nn.ModuleList(
            conv(width + i * growth, outputs[i], 3) for i in range(5)
        )

    def forward(self, x_BCYX):
        """Returns float[B, C, Y, X], as wide as the input."""
        seen = x_BCYX
        for layer in self.conv[:-1]:
            seen = torch.cat([seen, F.leaky_relu(layer(seen), 0.2)], dim=1)
        return x_BCYX + 0.2 * self.conv[-1](seen)


def bicubic(size, scale):
    """Weights float[scale * size, size] that enlarge a side (Keys, a = -0.5)."""
    places = (torch.arange(scale * size) + 0.5) / scale - 0.5
    d = (places[:, None] - torch.arange(size)).abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    weights = torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros(())))
    return weights / weights.sum(1, keepdim=True)


def fold(image_BCYX, s):
    """Patches of s x s pixels as channels, ordered row, column, colour."""
    B, C, Y, X = image_BCYX.shape
    h = image_BCYX.reshape(B, C, Y // s, s, X // s, s).permute(0, 3, 5, 1, 2, 4)
    return h.reshape(B, s * s * C, Y // s, X // s)


def fit(picture, size):
    """Resizes the shorter side to `size` and cuts out the middle."""
    width, height = picture.size
    if (width, height) == (size, size):
        return picture
    scale = size / min(width, height)
    shape = (max(size, round(width * scale)), max(size, round(height * scale)))
    picture = picture.resize(shape, Image.Resampling.BICUBIC)
    left, top = (shape[0] - size) // 2, (shape[1] - size) // 2
    return picture.crop((left, top, left + size, top + size))


def unit(x):
    """Vectors of length 1; a zero vector stays zero."""
    return x * (x * x).sum(-1, keepdim=True).clamp(min=1e-12).rsqrt()


def conv(inputs, outputs, kernel):
    """A convolution that keeps the sides."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class Norm(nn.Module):
    """Over a group of channels and the whole picture, or over one place's channels."""

    def __init__(self, channels, config):
        super().__init__()
        self.kind, self.epsilon = config["norm"], config["norm_epsilon"]
        counts = range(min(config["num_groups"], channels), 0, -1)
        self.groups = next(count for count in counts if channels % count == 0)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCYX):
        """Returns float[B, C, Y, X]."""
        if self.kind == "group":
            return F.group_norm(
                x_BCYX, self.groups, self.weight, self.bias, self.epsilon
            )
        x = x_BCYX.permute(0, 2, 3, 1)
        x = F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.epsilon)
        return x.permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """Norm, swish, convolution, twice, added to the input."""

    def __init__(self, inputs, outputs, kernel, config):
        super().__init__()
        self.norm1 = Norm(inputs, config)
        self.conv1 = conv(inputs, outputs, kernel)
        self.norm2 = Norm(outputs, config)
        self.conv2 = conv(outputs, outputs, kernel)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x_BCYX):
        """Returns float[B, outputs, Y, X]."""
        h = self.conv1(F.silu(self.norm1(x_BCYX)))
        h = self.conv2(F.silu(self.norm2(h)))
        has_shortcut = hasattr(self, "nin_shortcut")
        return (self.nin_shortcut(x_BCYX) if has_shortcut else x_BCYX) + h


class Attention(nn.Module):
    """Self-attention of one head over all places, added to the input."""

    def __init__(self, channels, config):
        super().__init__()
        self.norm = Norm(channels, config)
        for name in ("q", "k", "v", "proj_out"):
            setattr(self, name, nn.Conv2d(channels, channels, 1))

    def forward(self, x_BCYX):
        """Returns float[B, C, Y, X]."""
        h = self.norm(x_BCYX)
        q, k, v = (f(h).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).reshape(x_BCYX.shape)
        return x_BCYX + self.proj_out(mixed)


class Scale(nn.Module):
    """Holds the convolution under the name that published weights give it."""

    def __init__(self, channels, kernel, stride):
        super().__init__()
        self.stride = stride
        padding = 0 if stride > 1 else kernel // 2
        self.conv = nn.Conv2d(channels, channels, kernel, stride, padding)

    def forward(self, x_BCYX):
        """Returns half the sides, zeros added right and below; or twice the sides."""
        if self.stride > 1:
            return self.conv(F.pad(x_BCYX, (0, 1, 0, 1)))
        return self.conv(F.interpolate(x_BCYX, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention if asked for."""

    def __init__(self, inputs, level, config, kernel, num_blocks):
        super().__init__()
        outputs = config["base_channels"] * config["multipliers"][level]
        size = config["image_size"] // (config["patch_size"] * 2**level)
        widths = [inputs] + [outputs] * (num_blocks - 1)
        self.block = nn.ModuleList(ResBlock(w, outputs, kernel, config) for w in widths)
        has_attention = size in config["attention_sizes"]
        self.attn = nn.ModuleList(
            Attention(outputs, config) for _ in widths if has_attention
        )

    def forward(self, x_BCYX):
        """Returns float[B, outputs, Y, X]."""
        for i, block in enumerate(self.block):
            x_BCYX = block(x_BCYX)
            if len(self.attn):
                x_BCYX = self.attn[i](x_BCYX)
        return x_BCYX


class Mid(nn.Module):
    """Two residual blocks at the lowest resolution, attention between them."""

    def __init__(self, channels, kernel, config):
        super().__init__()
        self.block_1 = ResBlock(channels, channels, kernel, config)
        if config["use_mid_attention"]:
            self.attn_1 = Attention(channels, config)
        self.block_2 = ResBlock(channels, channels, kernel, config)

    def forward(self, x_BCYX):
        """Returns float[B, C, Y, X]."""
        x_BCYX = self.block_1(x_BCYX)
        if hasattr(self, "attn_1"):
            x_BCYX = self.attn_1(x_BCYX)
        return self.block_2(x_BCYX)


class Encoder(nn.Module):
    """Pixels to latents."""

    def __init__(self, config):
        super().__init__()
        kernels, width = config["encoder_kernels"], config["base_channels"]
        self.patch_size = config["patch_size"]
        self.conv_in = conv(3 * self.patch_size**2, width, kernels[0])
        self.down = nn.ModuleList()
        last = len(config["multipliers"]) - 1
        for i in range(last + 1):
            level = Level(width, i, config, kernels[i], config["num_res_blocks"])
            width = config["base_channels"] * config["multipliers"][i]
            if i < last:
                level.downsample = Scale(width, 3, 2)
            self.down.append(level)
        if config["use_mid_block"]:
            self.mid = Mid(width, kernels[-1], config)
        self.norm_out = Norm(width, config)
        self.conv_out = conv(width, config["latent_channels"], kernels[-1])

    def forward(self, image_BCYX):
        """Returns float[B, latent_channels, Y / stride, X / stride]."""
        h = self.conv_in(fold(image_BCYX, self.patch_size))
        for level in self.down:
            h = level(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        if hasattr(self, "mid"):
            h = self.mid(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """Latents to pixels; `up[i]` is the level of the encoder's `down[i]`."""

    def __init__(self, config):
        super().__init__()
        kernels, last = config["decoder_kernels"], len(config["multipliers"]) - 1
        width = config["base_channels"] * config["multipliers"][last]
        self.patch_size = config["patch_size"]
        self.conv_in = conv(config["latent_channels"], width, kernels[-1])
        if config["use_mid_block"]:
            self.mid = Mid(width, kernels[-1], config)
        levels = []
        for i in range(last, -1, -1):
            level = Level(width, i, config, kernels[i], config["num_res_blocks"] + 1)
            width = config["base_channels"] * config["multipliers"][i]
            if i > 0:
                level.upsample = Scale(width, kernels[i - 1], 1)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = Norm(width, config)
        self.conv_out = conv(width, 3 * self.patch_size**2, kernels[0])

    def forward(self, latents_BCYX):
        """Returns float[B, 3, Y, X], about in [-1, 1]."""
        h = self.conv_in(latents_BCYX)
        if hasattr(self, "mid"):
            h = self.mid(h)
        for level in reversed(self.up):
            h = level(h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        h = self.conv_out(F.silu(self.norm_out(h)))
        B, _, Y, X = h.shape
        s = self.patch_size
        h = h.reshape(B, s, s, 3, Y, X).permute(0, 3, 4, 1, 5, 2)
        return h.reshape(B, 3, Y * s, X * s)
