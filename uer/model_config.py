"""The settings of a model: its sizes, its parts, and the variants of its layers."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from uer.config_fields import LARGEST_WIDTH, LONGEST_ROW, MOST_LAYERS, Members, flag, members_of, require

DUAL = "dual"
"""The encoder and the embedding that consist of two, each with settings of its own."""
STREAM_ONLY = ("vocab_size",)
"""Keys of UER-py's `stream_0` and `stream_1` that nothing depends on: the vocabulary's file tells its size."""

MODERN = ("rotary_position_embedding", "rotary_base", "local_rotary_base", "alibi_position_embedding",
          "layer_number_scale", "local_kv_heads_num", "attention_window", "global_attention_every",
          "remove_layernorm_bias", "remove_first_layernorm", "query_key_value_bias", "query_key_layernorm",
          "prediction_head")
"""Settings of models later than UER-py's; one that is left out has its default."""


@dataclass(frozen=True)
class ModelConfig(Members):
    """Model (usually set by a JSON file of models/, given as --config_path)."""

    emb_size: int = flag(768, "Size of the embeddings.")
    hidden_size: int = flag(768, "Size of the hidden states.")
    feedforward_size: int = flag(3072, "Inner size of the feed-forward layers.")
    heads_num: int = flag(12, "Number of attention heads.")
    attention_head_size: int | None = flag(None, "Size of a head (default: hidden_size / heads_num).")
    layers_num: int = flag(12, "Number of encoder layers.")
    decoder_layers_num: int = flag(12, "Number of decoder layers (--decoder).")
    hidden_act: str = flag("gelu", "Activation function of the feed-forward layers.", family="hidden_act")
    dropout: float = flag(0.1, "Dropout probability.")
    embedding: tuple[str, ...] = flag(("word",), "Embeddings, which are added up.", family="embedding")
    tgt_embedding: tuple[str, ...] = flag(("word",), "Embeddings of the target side (--decoder).",
                                            family="embedding")
    max_seq_length: int = flag(512, "Number of positions of the position embedding: the maximum sequence length.")
    relative_position_embedding: bool = flag(False, "Add T5's relative position bias to the attention scores.")
    share_embedding: bool = flag(False, "Use the same word embedding for source and target.")
    remove_embedding_layernorm: bool = flag(False, "Omit the layer norm after the embedding.")
    factorized_embedding_parameterization: bool = flag(False, "Project the embeddings from emb_size to hidden_size "
                                                              "(ALBERT).")
    encoder: str = flag("transformer", "Encoder.", family="encoder")
    decoder: str | None = flag(None, "Decoder, which attends to the encoder's output.", family="decoder")
    mask: str = flag("fully_visible", "Attention mask: all positions, earlier positions only (causal), or the whole "
                                      "prefix and earlier positions (causal_with_prefix).",
                     choices=("fully_visible", "causal", "causal_with_prefix"))
    layernorm_positioning: str = flag("post", "Layer norm before (pre) or after (post) each sub-layer.",
                                      choices=("pre", "post"))
    feed_forward: str = flag("dense", "Kind of feed-forward layer.", choices=("dense", "gated"))
    relative_attention_buckets_num: int = flag(32, "Number of buckets of the relative position bias.")
    remove_attention_scale: bool = flag(False, "Do not divide the attention scores by sqrt(head size).")
    remove_transformer_bias: bool = flag(False, "Omit the biases of the transformer's linear layers.")
    layernorm: str = flag("normal", "Kind of layer norm; t5 and rms are RMSNorm.", choices=("normal", "t5", "rms"))
    layernorm_eps: float | None = flag(None, "Number that layer norms add to the variance (default: 1e-12; 1e-6 for "
                                             "t5 and rms). Hugging Face's BART and Pegasus have 1e-5.")
    parameter_sharing: bool = flag(False, "Use the same parameters in all layers (ALBERT).")
    has_residual_attention: bool = flag(False, "Add the attention scores of the previous layer (RealFormer).")
    target: tuple[str, ...] = flag(("mlm",), "Pretraining targets.", family="target")
    tie_weights: bool = flag(False, "Use the weight of the word embedding in the output layer too.")
    pooling: str = flag("first", "How the hidden states of a sequence become one vector.",
                        choices=("mean", "max", "first", "last"))
    prefix_lm_loss: bool = flag(False, "Compute the lm loss only for the tokens that follow the prefix; without it "
                                       "too, the prefixes of --data_processor prefixlm have no loss.")
    rotary_position_embedding: bool = flag(False, "Turn queries and keys by angles that grow with the position "
                                                  "(RoPE; LLaMA, ModernBERT). Encoders and language models only.")
    rotary_base: float = flag(10000.0, "Base of the rotary position embedding's wave lengths.")
    local_rotary_base: float | None = flag(None, "Base of the layers with local attention (default: rotary_base).")
    alibi_position_embedding: bool = flag(False, "Subtract from the attention scores what grows linearly with the "
                                                 "distance (ALiBi; BLOOM).")
    layer_number_scale: bool = flag(False, "Accepted for BLOOM's settings in TencentPretrain: there it divides scores "
                                           "in half precision and multiplies them again, which changes no result.")
    local_kv_heads_num: int | None = flag(None, "Number of key and value heads, each of which serves several query "
                                                "heads (grouped queries, Llama 2 70B; default: heads_num).")
    attention_window: int = flag(0, "Local attention: a token attends to those at most half so many positions away "
                                    "(ModernBERT: 128). 0: to all.")
    global_attention_every: int = flag(0, "Of the layers with attention_window, every so many-th, beginning with the "
                                          "first, attends to all tokens (ModernBERT: 3). 0: none.")
    remove_layernorm_bias: bool = flag(False, "Omit the biases of the layer norms.")
    remove_first_layernorm: bool = flag(False, "Omit the layer norm before the attention of the first layer "
                                               "(ModernBERT); needs layernorm_positioning pre.")
    query_key_value_bias: bool = flag(False, "Keep the biases of queries, keys and values in spite of "
                                             "remove_transformer_bias (Qwen2).")
    query_key_layernorm: bool = flag(False, "Normalise each head of queries and keys (Qwen3).")
    prediction_head: str = flag("bert", "First layer of the mlm target and of classifiers. modernbert: it has no "
                                        "bias, and in classifiers hidden_act and a layer norm follow instead of tanh; "
                                        "taggers have the same. linear: classifiers have one layer, without bias.",
                                choices=("bert", "modernbert", "linear"))
    stream_0: dict | None = flag(None, "Settings that differ in the first encoder of the dual encoder.",
                                 file_only=True)
    stream_1: dict | None = flag(None, "Settings that differ in the second encoder of the dual encoder.",
                                 file_only=True)
    members: dict[str, Any] = members_of("embedding", "encoder", "decoder", "target")

    def stream(self, number: int) -> "ModelConfig":
        """The settings of one encoder of the dual encoder: these, overridden by `stream_0` or `stream_1`.

        Of every other encoder they are these settings themselves.
        """
        own = (self.stream_0, self.stream_1)[number]
        if self.encoder != DUAL or own is None:
            return self
        known = {known.name for known in fields(self)}
        members = {name: value for name, value in own.items() if name not in known and name not in STREAM_ONLY}
        return replace(self, **{"stream_0": None, "stream_1": None, "members": {**self.members, **members},
                                **{name: value for name, value in own.items() if name in known}})

    @property
    def longest_row(self) -> int:
        """How many tokens a row may have: only position embeddings set a limit."""
        streams = (self.stream(0), self.stream(1))
        return min(each._longest(each.embedding) for each in streams)

    @property
    def longest_tgt_row(self) -> int:
        """The same of the target side."""
        return self._longest(self.tgt_embedding)

    def _longest(self, embedding: tuple[str, ...]) -> int:
        return self.max_seq_length if {"pos", "sinusoidalpos"}.intersection(embedding) else LONGEST_ROW

    def problems(self) -> list[str]:
        found: list[str] = []
        most = {"emb_size": LARGEST_WIDTH, "hidden_size": LARGEST_WIDTH, "feedforward_size": LARGEST_WIDTH,
                "heads_num": LARGEST_WIDTH, "layers_num": MOST_LAYERS, "decoder_layers_num": MOST_LAYERS,
                "max_seq_length": LONGEST_ROW}
        for name, largest in most.items():
            require(found, 1 <= getattr(self, name) <= largest,
                    f"{name} must lie between 1 and {largest:,}, not {getattr(self, name)}")
        size = self.attention_head_size
        require(found, size is None or 1 <= size <= LARGEST_WIDTH,
                f"attention_head_size must lie between 1 and {LARGEST_WIDTH:,}, not {size}")
        require(found, self.layernorm_eps is None or 0.0 < self.layernorm_eps < 1.0,
                f"layernorm_eps must lie between 0 and 1, not {self.layernorm_eps}")
        found += self._problems_of_attention()
        require(found, 0.0 <= self.dropout < 1.0, f"dropout must lie in [0, 1), not {self.dropout}")
        for name in ("embedding", "tgt_embedding", "target"):
            require(found, len(set(getattr(self, name))) == len(getattr(self, name)), f"{name} names one twice")
        require(found, bool(self.embedding), "embedding names none")
        words = {"word", DUAL}.intersection(self.embedding)  # the streams of "dual" have embeddings of their own
        require(found, bool(words) or not self.tie_weights, "tie_weights needs the embedding 'word'")
        require(found, self.embedding == (DUAL,) if self.encoder == DUAL else DUAL not in self.embedding,
                "encoder 'dual' and embedding 'dual' need one another, and no other embedding")
        # A quarter of the buckets is for small distances, one bucket each: at least one, and fewer than 128, the
        # distance from which on all share the last bucket (MAX_DISTANCE in `uer.layers.relative_position`).
        require(found, 4 <= self.relative_attention_buckets_num < 512 or not self.relative_position_embedding,
                "relative_attention_buckets_num must lie between 4 and 511")
        return found

    def _problems_of_attention(self) -> list[str]:
        found: list[str] = []
        groups = self.local_kv_heads_num
        require(found, groups is None or (groups >= 1 and self.heads_num % groups == 0),
                f"heads_num {self.heads_num} is no multiple of local_kv_heads_num {groups}")
        require(found, min(self.rotary_base, self.local_rotary_base or 2.0) > 1.0,
                "rotary_base and local_rotary_base must be above 1")
        require(found, 0 <= self.attention_window <= LONGEST_ROW,
                f"attention_window must lie between 0 and {LONGEST_ROW:,}")
        require(found, 0 <= self.global_attention_every <= MOST_LAYERS,
                f"global_attention_every must lie between 0 and {MOST_LAYERS:,}")
        require(found, bool(self.attention_window) or self.local_rotary_base is None,
                "local_rotary_base needs attention_window")
        require(found, not self.alibi_position_embedding or not self.relative_position_embedding,
                "alibi_position_embedding and relative_position_embedding exclude one another")
        require(found, not self.remove_first_layernorm or self.layernorm_positioning == "pre",
                "remove_first_layernorm needs layernorm_positioning pre")
        return found


def model_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A model's settings from a file of ours, as they are written today.

    Earlier versions named the decoder "transformer" where no model had one; they did not know `stream_0`.
    """
    absent = () if "stream_0" in settings else ("decoder",)
    return {name: value for name, value in settings.items() if name not in absent}


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """A model's settings as hashes of finished work have them: trials of earlier versions are found again.

    It has the settings of the first version, and of those that came later what is not the default.
    """
    at_first = {"decoder": "transformer", "bidirectional": False, "has_lmtarget_bias": False}
    later = {"attention_head_size", "stream_0", "stream_1", "decoder", "layernorm_eps"}
    modern = {known.name: known.default for known in fields(model) if known.name in MODERN}
    values = {name: value for name, value in model.values().items() if name not in modern or value != modern[name]}
    return {**at_first, **{name: value for name, value in values.items() if name not in later or value is not None}}
