"""Small language models of transformers, with random weights, as a caller's own code would make them."""

import torch
from torch import nn

from onnxserve_converters.sources.huggingface import import_transformers

import_transformers()  # also beside a torchvision that cannot be loaded

from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, LlamaConfig  # noqa: E402
from transformers import LlamaForCausalLM as Llama  # noqa: E402

VOCABULARY = 99
_SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}


class _Bert(BertForSequenceClassification):
    """Unpickled in another process it imports this module, and so transformers as above."""


def bert():
    """A classifier whose masks are added to the scores of attention."""
    return _Bert(BertConfig(**_SMALL, intermediate_size=37, max_position_embeddings=40))


class _Causal(nn.Module):
    """The logits of a causal model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def gpt2():
    """A causal model with learned positions."""
    return _Causal(GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=40)))


def llama():
    """A causal model with relative positions, which accepts padding on either side."""
    return _Causal(Llama(LlamaConfig(**_SMALL, intermediate_size=37, num_key_value_heads=2)))


class Masked(nn.Module):
    """An encoder of tokens with a mask of ones at valid places, of any dtype, and the mean of the valid places."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(17, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, tokens, mask):
        hidden = self.encoder(self.embedding(tokens), src_key_padding_mask=mask == 0)
        valid = mask.to(hidden.dtype).unsqueeze(-1)
        return (hidden * valid).sum(1) / valid.sum(1)


class Ignoring(nn.Module):
    """An encoder of tokens with a mask of ones at ignored places, and the mean of the others."""

    def __init__(self):
        super().__init__()
        self.masked = Masked()

    def forward(self, tokens, mask):
        return self.masked(tokens, ~mask)


class Packed(nn.Module):
    """A recurrent network of rows with lengths, of which the first must be the longest where they are `ordered`."""

    def __init__(self, ordered):
        super().__init__()
        self.ordered, self.lstm = ordered, nn.LSTM(4, 8, batch_first=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=self.ordered)
        answers, (h, _) = self.lstm(packed)
        padded, _ = nn.utils.rnn.pad_packed_sequence(answers, batch_first=True, total_length=x.shape[1])
        return padded, h[-1]


def seeded(make):
    """A model with the same random weights each time."""
    torch.manual_seed(0)
    return make().eval()
