"""Living storage: factors, gradients and optimizer state for the entries that a mask keeps, and for no others.

Why a room of its own: programs, passes, criteria and schedules think in weights of full shape; only what lies in
memory differs, and everything that knows of it is here.
"""
