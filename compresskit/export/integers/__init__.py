"""In which number types an exported model computes, as its runtime itself says; integers that do not pay left out."""
