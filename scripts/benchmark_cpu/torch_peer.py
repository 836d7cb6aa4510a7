"""The train step of a torch.nn.Transformer as its users write it, in a process that takes a step when it is asked.

Sizes, pre-norm, tied embeddings, sinusoids, dropout, label smoothing, Adam and clipping are ours. Torch's dropout of
attention weights, which we do not have, is off: it would disable torch's fused attention. Adam is fused, the
fastest of torch on a CPU. By choice the model is compiled (torch.compile), or computes in bfloat16 under autocast, with
parameters and loss in float32. Imports torch only, so that another interpreter can run it."""

import argparse
import json
import math
import sys
import time
import warnings

import torch
from torch import nn

PAD, FIRST_WORD = 0, 6


class Peer(nn.Module):
    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__()
        warnings.filterwarnings("ignore", "enable_nested_tensor")  # of encoders that skip padding
        d_model = arguments.d_model
        self.embedding = nn.Embedding(arguments.vocabulary, d_model, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)
        self.transformer = nn.Transformer(
            d_model,
            arguments.heads,
            arguments.encoder_layers,
            arguments.decoder_layers,
            arguments.d_hidden,
            arguments.dropout,
            batch_first=True,
            norm_first=True,
        )
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
        self.dropout = nn.Dropout(arguments.dropout)
        rates = 10_000.0 ** (-torch.arange(0, d_model, 2) / d_model)
        angles = torch.arange(arguments.length)[:, None] * rates
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], dim=1))
        causal = nn.Transformer.generate_square_subsequent_mask(arguments.length, dtype=torch.bool)
        self.register_buffer("causal", causal)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        scaled = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        return self.dropout(scaled + self.positions)

    def forward(self, source: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        is_padding = source == PAD
        states = self.transformer(
            self.embed(source),
            self.embed(inputs),
            tgt_mask=self.causal,
            src_key_padding_mask=is_padding,
            tgt_key_padding_mask=inputs == PAD,
            memory_key_padding_mask=is_padding,
            tgt_is_causal=True,
        )
        return nn.functional.linear(states, self.embedding.weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("d_model", "d_hidden", "heads", "encoder_layers", "decoder_layers", "vocabulary"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("sentences", "length", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("dropout", "smoothing"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--bfloat16", action="store_true", help="products in bfloat16")
    parser.add_argument("--compiled", action="store_true", help="by torch.compile")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    peer = Peer(arguments).train()
    adam = torch.optim.Adam(peer.parameters(), lr=1e-6, betas=(0.9, 0.98), eps=1e-9, fused=True)
    loss = nn.CrossEntropyLoss(ignore_index=PAD, label_smoothing=arguments.smoothing)
    forward = torch.compile(peer) if arguments.compiled else peer
    shape = (arguments.sentences, arguments.length)
    source, target = (torch.randint(FIRST_WORD, arguments.vocabulary, shape) for _ in range(2))
    inputs = target.roll(1, dims=1)

    def step() -> float:
        adam.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bfloat16):
            logits = forward(source, inputs)
        value = loss(logits.float().flatten(0, 1), target.flatten())
        value.backward()
        nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        adam.step()
        return value.item()

    print(json.dumps({"version": torch.__version__}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        value = step()
        seconds = time.perf_counter() - start
        if not math.isfinite(value):
            raise ArithmeticError(f"the loss is {value}")
        print(json.dumps({"seconds": seconds, "loss": value}), flush=True)


if __name__ == "__main__":
    main()
