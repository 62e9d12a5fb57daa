"""A real but tiny LLM folder: a random Llama and a tokenizer of single characters, with a chat template."""

from pathlib import Path

CHAT = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"


def make_tiny_llm(folder: Path, *, chat_template: str | None = CHAT) -> Path:
    """Writes the model to ``folder`` and returns it. Token 0 ends a sequence, token 1 begins one."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate(["[end]", "[begin]", "[unknown]", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[unknown]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="[begin] $A", special_tokens=[("[begin]", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[end]", bos_token="[begin]")  # noqa: S106
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        eos_token_id=0, bos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder
