"""What a training run needs before it begins: operations, memory, hours, and the loss to expect.

    flops       operations of a token, by running the model without data
    memory      bytes of a device, and what ranks send one another
    hardware    peak operations, memory and links of known GPUs
    loss_law    the held-out loss by parameters and tokens, fitted to runs
    plan        the lines that `pretrain.py --dry_run` prints
"""
