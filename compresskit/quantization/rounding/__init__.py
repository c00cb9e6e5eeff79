"""Choosing each weight's level: nearest, AdaRound, GPTQ, and what bias correction makes up for."""
