"""The one idea: a weight is a program of factors, gates and a mask, and each owner of weights runs its own.

Why a room of its own: everything else (criteria, schedules, passes, exports) reads weights through programs alone.
"""
