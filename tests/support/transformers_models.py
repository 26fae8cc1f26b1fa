"""Small models of transformers with random weights, saved as their users save them, by name of their architecture."""

import functools

import torch

from onnxserve_converters.sources.huggingface import import_transformers

import_transformers()  # before its first import anywhere else

import transformers as hf  # noqa: E402

_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
_TEXT = _LAYERS | {"vocab_size": 99}
_IMAGE = _LAYERS | {"image_size": 32, "patch_size": 8}
_LABELS = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
_T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
_CONVOLUTIONS = {
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
_WHISPER = {
    "vocab_size": 99, "d_model": 32, "num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_layers": 2, "decoder_attention_heads": 4, "encoder_ffn_dim": 37, "decoder_ffn_dim": 37,
    "max_source_positions": 30, "max_target_positions": 20, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2,
    "decoder_start_token_id": 3,
}  # fmt: skip


def clip():
    """A model of texts and images."""
    text = _TEXT | {"max_position_embeddings": 24, "bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 98}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=_IMAGE, projection_dim=16))


MODELS = {
    "BERT": lambda: hf.BertForSequenceClassification(hf.BertConfig(**_TEXT, **_LABELS)),
    "DistilBERT": lambda: hf.DistilBertForTokenClassification(
        hf.DistilBertConfig(vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=37)
    ),
    "RoBERTa": lambda: hf.RobertaForQuestionAnswering(
        hf.RobertaConfig(**_TEXT, type_vocab_size=1, max_position_embeddings=20)
    ),
    "ALBERT": lambda: hf.AlbertForMaskedLM(hf.AlbertConfig(**_TEXT, embedding_size=16)),
    "MPNet": lambda: hf.MPNetModel(hf.MPNetConfig(**_TEXT)),
    "T5 encoder": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**_T5)),
    "GPT-2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=98, eos_token_id=98)
    ),
    "Llama": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(**_TEXT, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True)
    ),
    "ViT": lambda: hf.ViTForImageClassification(hf.ViTConfig(**_IMAGE, **_LABELS)),
    "CLIP": clip,
    "Whisper encoder": lambda: hf.WhisperForConditionalGeneration(hf.WhisperConfig(**_WHISPER)),
    "Wav2Vec2": lambda: hf.Wav2Vec2ForCTC(
        hf.Wav2Vec2Config(**_TEXT, **_CONVOLUTIONS, feat_extract_norm="layer", do_stable_layer_norm=True)
    ),
}


@functools.cache
def model(name):
    """The model of a name, the same in each call."""
    torch.manual_seed(0)
    return MODELS[name]().eval()
