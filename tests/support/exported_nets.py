"""PyTorch networks as people export them, by what their rows do: keep apart, or change each other."""

import torch
import torch.nn.functional as F  # noqa: N812 (as PyTorch's own documents have it)
from torch import nn

D = 16


def net(function, **layers):
    """A module of some layers and a forward function, which takes the module first."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, layer in layers.items():
                setattr(self, name, layer)

        def forward(self, *args):
            return function(self, *args)

    torch.manual_seed(0)
    made = Net().eval()
    for parameter in made.parameters():
        nn.init.uniform_(parameter, -0.6, 0.6)
    return made


def heads(x, n=4):
    return x.reshape(x.shape[0], x.shape[1], n, x.shape[2] // n).transpose(1, 2)


def masked_attention(m, ids, mask):
    x = m.embed(ids)
    q, k, v = (heads(part) for part in m.qkv(x).chunk(3, -1))
    score = q @ k.transpose(-1, -2) / 2
    score = score.masked_fill(mask[:, None, None, :] == 0, -1e9)
    y = (score.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
    return m.out(y + x)


def causal(m, ids):
    x = m.embed(ids) + m.position(torch.arange(ids.shape[1]))[None]
    q, k, v = (heads(part) for part in m.qkv(x).chunk(3, -1))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return m.out(y.transpose(1, 2).flatten(2) + x)


def vision(m, image):
    x = m.patch(image).flatten(2).transpose(1, 2)
    x = torch.cat([m.token.expand(image.shape[0], -1, -1), x], 1)
    return m.head(m.encoder(x)[:, 0])


def windows(m, image):
    b, c, h, w = image.shape
    x = image.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
    x = m.block(x)
    x = x.reshape(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
    return m.head(x.mean((2, 3)))


def unet(m, image):
    down = F.relu(m.down(image))
    up = F.relu(m.up(F.max_pool2d(down, 2)))
    return m.head(torch.cat([F.interpolate(up, scale_factor=1.0), down], 1))


def decode(m, image):
    b = image.shape[0]
    raw = m.features(image)
    h, w = raw.shape[2], raw.shape[3]
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    grid = torch.stack([x, y], -1).reshape(1, h * w, 2).float()
    raw = raw.flatten(2).transpose(1, 2)
    boxes = torch.cat([raw[..., :2].sigmoid() + grid, raw[..., 2:4].exp()], -1)
    score, best = raw[..., 4].topk(5, 1)
    return torch.gather(boxes, 1, best[..., None].expand(b, 5, 4)), score


def transformed(m, image):
    theta = m.head(image.flatten(1)).reshape(-1, 2, 3)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8), indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).reshape(1, 64, 3)
    grid = (points @ theta.transpose(1, 2)).reshape(-1, 8, 8, 2)
    return F.grid_sample(image, grid, align_corners=False)


def bias(m, x):
    t = torch.arange(x.shape[1])
    table = m.table((t[None] - t[:, None]).clamp(-4, 4) + 4).permute(2, 0, 1)[None]
    q = heads(x)
    return ((q @ q.transpose(-1, -2) + table).softmax(-1) @ q).transpose(1, 2).flatten(2)


def last(m, ids, lengths):
    return m.head(m.gru(m.embed(ids))[0][torch.arange(ids.shape[0]), lengths - 1])


def pooled(m, ids):
    x = m.embed(ids)
    return m.head(x[torch.arange(x.shape[0]), ids.argmax(-1)])


def picked(m, x):
    best = m.score(x)[..., 0].topk(2, 1).indices
    return x[torch.arange(x.shape[0])[:, None], best]


def written(m, ids, mask):
    b, t = ids.shape
    x = heads(m.embed(ids))
    hidden = torch.full((t, t), -1e4).triu(1)[None, None].expand(b, 1, -1, -1).clone()
    n = mask.shape[-1]
    empty = hidden[:, :, :, :n] + mask[:, None, None, :] == 0
    hidden[:, :, :, :n] = hidden[:, :, :, :n].masked_fill(empty, -1e4)
    return ((x @ x.transpose(2, 3) / 2 + hidden).softmax(-1) @ x).transpose(1, 2).flatten(2)


def sampled(m, image, places):
    b, c, h, w = image.shape
    parts = F.grid_sample(image.reshape(b * 2, c // 2, h, w), places.flatten(0, 1).tanh(), align_corners=False)
    return parts.reshape(b, c, 5, 3)


def squeezed(m, image):
    x = m.conv(image)
    return (x * m.gate(x.mean((2, 3))).sigmoid()[..., None, None]).amax((2, 3))


def shuffled(m, image):
    b, c, h, w = image.shape
    x = image.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
    return F.pixel_shuffle(m.conv(x), 2)


def experts(m, x):
    weight, chosen = m.router(x).softmax(-1).topk(2, -1)
    gate = torch.zeros(x.shape[0], x.shape[1], 4).scatter(2, chosen, weight)
    return torch.einsum("btd,edf,bte->btf", x, m.experts, gate)


def recurrent_pair(m, x):
    y, (h, _) = m.lstm(x)
    z, g = m.gru(y)
    return z, h.transpose(0, 1), torch.cat([g[0], g[1]], -1)


def time_major(m, x):
    return m.rnn(x.transpose(0, 1))[0][-1]


def positions(m, ids, mask):
    place = torch.cumsum(mask, 1) * mask
    x = m.embed(ids) + m.position(place)
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def lengths_mask(m, ids, lengths):
    mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
    return (m.embed(ids) * mask[..., None]).sum(1)


def cross(m, x, y):
    return m.attention(x, y, y)[0]


def viterbi(m, x):
    score = x[:, 0]
    for t in range(1, 4):
        score = (score[:, :, None] + m.transition[None]).amax(1) + x[:, t]
    return score, score.argmax(-1)


def fourier(m, x):
    spectrum = torch.stft(x, 16, 8, window=torch.hann_window(16), return_complex=True)
    return m.head(spectrum.abs().log1p().mean(-1))


def lookup(m, ids, x):
    hot = F.one_hot(ids, 5).float()
    return torch.cat([hot @ m.table, x.sort(-1).values, x.cumsum(-1), torch.where(x > 0, x, -x)], -1)


def unbound(m, x):
    parts = torch.unbind(x, 1) if x.shape[1] == 4 else [x[:, 0]]
    return torch.stack([part * (k + 1) for k, part in enumerate(parts)], 1)


def normed(m, image):
    x = m.layer(m.conv(image).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return m.instance(m.group(x)) + F.adaptive_avg_pool2d(x, 2).mean((2, 3), keepdim=True)


def _mask_of_all(m, ids, lengths):
    return (torch.arange(lengths.max()) < lengths[:, None]).float(), m.embed(ids).sum(1)


INT, FLOAT = "int", "float"
IMAGE = (FLOAT, ("batch", 4, 8, 8))
IDS = (INT, ("batch", "time"))
X3 = (FLOAT, ("batch", "time", D))

INDEPENDENT = {
    "mlp": (
        lambda: net(lambda m, x: m.b(F.gelu(m.a(x))).softmax(-1), a=nn.Linear(D, D), b=nn.Linear(D, 3)),
        [(FLOAT, ("batch", D))],
    ),
    "cnn": (
        lambda: net(
            lambda m, x: m.h(m.f(x).flatten(1)),
            f=nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
            h=nn.Linear(72, 3),
        ),
        [IMAGE],
    ),
    "masked attention": (
        lambda: net(masked_attention, embed=nn.Embedding(11, D), qkv=nn.Linear(D, 3 * D), out=nn.Linear(D, 5)),
        [IDS, (INT, ("batch", "time"), 2)],
    ),
    "causal attention": (
        lambda: net(
            causal,
            embed=nn.Embedding(11, D),
            position=nn.Embedding(32, D),
            qkv=nn.Linear(D, 3 * D),
            out=nn.Linear(D, 11),
        ),
        [IDS],
    ),
    "vision transformer": (
        lambda: net(
            vision,
            patch=nn.Conv2d(4, D, 4, 4),
            token=nn.ParameterList([torch.zeros(1, 1, D)])[0],
            encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(D, 2, 32, batch_first=True), 1),
            head=nn.Linear(D, 3),
        ),
        [IMAGE],
    ),
    "windows": (
        lambda: net(windows, block=nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), head=nn.Linear(4, 3)),
        [IMAGE],
    ),
    "u-net": (
        lambda: net(
            unet, down=nn.Conv2d(4, 8, 3, padding=1), up=nn.ConvTranspose2d(8, 8, 2, 2), head=nn.Conv2d(16, 2, 1)
        ),
        [IMAGE],
    ),
    "boxes": (lambda: net(decode, features=nn.Conv2d(4, 5, 3, 2, 1)), [IMAGE]),
    "spatial transformer": (lambda: net(transformed, head=nn.Linear(256, 6)), [IMAGE]),
    "relative bias": (lambda: net(bias, table=nn.Embedding(9, 4)), [X3]),
    "last step": (
        lambda: net(last, embed=nn.Embedding(11, D), gru=nn.GRU(D, D, batch_first=True), head=nn.Linear(D, 3)),
        [IDS, (INT, ("batch",), (1, 5))],
    ),
    "pooled at argmax": (lambda: net(pooled, embed=nn.Embedding(11, D), head=nn.Linear(D, 3)), [IDS]),
    "picked at the top": (lambda: net(picked, score=nn.Linear(D, 1)), [X3]),
    "a mask that is written to": (lambda: net(written, embed=nn.Embedding(11, D)), [IDS, (INT, ("batch", "time"), 2)]),
    "deformable attention": (lambda: net(sampled), [IMAGE, (FLOAT, ("batch", 2, 5, 3, 2))]),
    "squeeze and excite": (lambda: net(squeezed, conv=nn.Conv2d(4, 8, 3, groups=4), gate=nn.Linear(8, 8)), [IMAGE]),
    "channel shuffle": (lambda: net(shuffled, conv=nn.Conv2d(4, 8, 1)), [IMAGE]),
    "experts": (
        lambda: net(experts, router=nn.Linear(D, 4), experts=nn.ParameterList([torch.zeros(4, D, 8)])[0]),
        [X3],
    ),
    "lstm and gru": (
        lambda: net(
            recurrent_pair,
            lstm=nn.LSTM(D, 8, 2, batch_first=True),
            gru=nn.GRU(8, 8, bidirectional=True, batch_first=True),
        ),
        [X3],
    ),
    "time first": (lambda: net(time_major, rnn=nn.RNN(D, 8)), [X3]),
    "positions by cumsum": (
        lambda: net(positions, embed=nn.Embedding(11, D), position=nn.Embedding(32, D)),
        [IDS, (INT, ("batch", "time"), 2)],
    ),
    "mask of lengths": (lambda: net(lengths_mask, embed=nn.Embedding(11, D)), [IDS, (INT, ("batch",), (1, 6))]),
    "cross attention": (
        lambda: net(cross, attention=nn.MultiheadAttention(D, 4, batch_first=True)),
        [X3, (FLOAT, ("batch", "keys", D))],
    ),
    "viterbi": (lambda: net(viterbi, transition=nn.ParameterList([torch.zeros(5, 5)])[0]), [(FLOAT, ("batch", 4, 5))]),
    "spectrum": (lambda: net(fourier, head=nn.Linear(9, 3)), [(FLOAT, ("batch", 64))]),
    "one-hot and sort": (
        lambda: net(lookup, table=nn.ParameterList([torch.zeros(5, 3)])[0]),
        [(INT, ("batch",), 5), (FLOAT, ("batch", 6))],
    ),
    "unbound": (lambda: net(unbound), [(FLOAT, ("batch", 4, 3))]),
    "norms": (
        lambda: net(
            normed,
            conv=nn.Conv2d(4, 8, 1),
            layer=nn.LayerNorm(8),
            group=nn.GroupNorm(2, 8),
            instance=nn.InstanceNorm2d(8),
        ),
        [IMAGE],
    ),
}
"""By name: a function that makes the network, and its inputs: kind, axes, and for integers their limit or range."""

DEPENDENT = {
    "mask of the longest": (lambda: net(_mask_of_all, embed=nn.Embedding(11, D)), [IDS, (INT, ("batch",), (1, 6))]),
    "scaled by the largest": (lambda: net(lambda m, x: x / x.max()), [(FLOAT, ("batch", D))]),
    "softmax over rows": (lambda: net(lambda m, x: x.softmax(0)), [(FLOAT, ("batch", D))]),
    "centered": (lambda: net(lambda m, x: x - x.mean(0, keepdim=True)), [(FLOAT, ("batch", D))]),
    "rows against rows": (
        lambda: net(lambda m, x, y: (x @ y.T).softmax(-1).diagonal()[:, None] + x),
        [(FLOAT, ("batch", D)), (FLOAT, ("batch", D))],
    ),
    "any above 1": (lambda: net(lambda m, x: x * (x > 1).any().float()), [(FLOAT, ("batch", D))]),
    "attention over rows": (
        lambda: net(lambda m, x: m.a(x)[0], a=nn.TransformerEncoderLayer(D, 2, 8)),
        [(FLOAT, ("batch", "time", D))],
    ),
    "neighbours": (lambda: net(lambda m, x: torch.cat([x[1:], x[:1]], 0) + x), [(FLOAT, ("batch", D))]),
    "sum so far": (lambda: net(lambda m, x: x.cumsum(0)), [(FLOAT, ("batch", D))]),
    "ranks": (lambda: net(lambda m, x: x.argsort(0).argsort(0).float()), [(FLOAT, ("batch", D))]),
    "by number of rows": (lambda: net(lambda m, x: x / x.shape[0]), [(FLOAT, ("batch", D))]),
}
"""Likewise."""
