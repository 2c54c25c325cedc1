"""A family of encoders of many sizes, pretrained on one corpus: what it costs, and running what is left to do.

    architectures   BERT and ModernBERT: files, recipe, conversion
    sizes           names on the command line -> architectures
    recipe          the stages of pretraining and their settings
    teaching        which sizes learn from which teacher
    devices         the GPUs or the CPU that the plan is made for
    mps             several processes on one GPU at the same time
    scaling         the time of an update against the number of GPUs, by a small model
    measurements    what is known of the corpus and the devices beyond assumptions
    costs           parameters, FLOPs, memory and hours of one size, by formula
    scheduling      which sizes run at the same time on which devices
    plan            the table that --dry_run prints
    scaling_tables  what --scaling adds to it
    commands        the files of an output folder, and the commands that make them
    runner          runs the commands that are left to do, as child processes
    card            the parts of a model card that describe the training
"""
