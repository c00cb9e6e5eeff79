"""Changes before rounding that leave the function as it is: folding, equalization, smoothing."""
