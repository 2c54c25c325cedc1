"""A family of encoders of many sizes from one corpus: what it costs, what is left to do, and doing it.

    sizes      names on the command line -> architectures
    recipe     the stages of pretraining and their numbers
    teaching   which sizes learn from which teacher
    devices    what the plan reckons with
    costs      parameters, FLOPs, memory and hours of a size, by formula
    lanes      which sizes run at once on which devices
    plan       the table that a person reads before paying for it
    work       files of an output folder, and the commands that make them
    nodes      torchrun's settings, and what node 0 tells the other machines
    runner     running what is not done yet, as child processes
    card       what a model card says about the training
"""
