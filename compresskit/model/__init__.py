"""From a string to a module: builders, the built-in zoo, example inputs, weights, what training code left behind."""
