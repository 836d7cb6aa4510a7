"""The ids that every vocabulary reserves, in one place and free of JAX, so that `data` may use them.

PAD fills a row on the right; BOS starts an autoregressive decoder; EOS ends every source and, for
autoregressive models, every target; UNK is what a vocabulary without byte fallback answers; MASK and
BLANK belong to mask-predict and CTC. Text never contains any of them."""

PAD, BOS, EOS, UNK, MASK, BLANK = range(6)
NUM_SPECIAL = 6
