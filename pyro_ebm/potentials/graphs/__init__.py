"""Functions of tensors as flat graphs of operations: recorded, simplified, laid out for chains."""
