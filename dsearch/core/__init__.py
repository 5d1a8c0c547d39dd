"""The backend-agnostic core: plans, randomness, selection, values and the loop. It needs torch, einops and numpy."""
