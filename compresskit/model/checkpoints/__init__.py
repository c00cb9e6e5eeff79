"""Files of weights as found in the wild: told apart, searched for the tensors that fit, copied in strictly."""
