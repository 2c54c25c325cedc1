"""What every run shares, whatever it trains: ranks and processes, locks, precision.

It knows nothing of models, data or files of weights.
"""
