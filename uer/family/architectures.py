"""The architectures of a family: where the sizes' files are, how they are pretrained, and what converts them."""

from dataclasses import dataclass

from uer.config import ModelConfig
from uer.planning.flops import parameter_count


@dataclass(frozen=True)
class FamilyArchitecture:
    """What differs between families of encoders.

    Attributes:
        title: what people call it.
        folder: of the sizes' JSON files, in the repository.
        prediction_head: the setting by which a size's file is known to belong here.
        recipe: the name of the recipe, where none is given.
        name_prefix: of the finished models' folders, where none is given.
        conversion: the script that converts to Hugging Face.
    """

    title: str
    folder: str
    prediction_head: str
    recipe: str
    name_prefix: str
    conversion: str

    def lines(self, config: ModelConfig, document_length: float = 0.0) -> list[str]:
        """What a plan says of the architecture, for one of its sizes; nothing of BERT, as ever.

        >>> ARCHITECTURES["modern"].lines(ModelConfig(attention_window=128, global_attention_every=3))[0]
        'architecture: ModernBERT; every third layer attends to whole rows, the others to a window of 128 tokens'
        """
        if self.prediction_head == ModelConfig.prediction_head:
            return []
        every = config.global_attention_every
        some = {0: "no layer", 1: "every layer", 2: "every second layer", 3: "every third layer"}
        return [f"architecture: {self.title}; {some.get(every, f'every {every}th layer')} attends to whole rows, the "
                f"others to a window of {config.attention_window} tokens",
                f"attention is counted inside of documents of {document_length:g} tokens" if document_length else
                "attention is counted as if each row were one document; for shorter ones give --document_length"]


def described(config: ModelConfig, vocab_size: int) -> str:
    """`ModernBERT 8/512, 36.4 M parameters`"""
    title = next(known.title for known in ARCHITECTURES.values() if known.prediction_head == config.prediction_head)
    parameters = parameter_count(config, vocab_size)
    return f"{title} {config.layers_num}/{config.hidden_size}, {parameters / 1e6:.1f} M parameters"


ARCHITECTURES = {
    "bert": FamilyArchitecture("BERT", "models/bert", "bert", "uer", "chinese_roberta",
                               "scripts/convert_bert_from_uer_to_huggingface.py"),
    "modern": FamilyArchitecture("ModernBERT", "models/modernbert", "modernbert", "modernbert", "chinese_modernbert",
                                 "scripts/convert_modernbert_from_uer_to_huggingface.py"),
}
