"""Mathematics in plain PyTorch: the network, the flow path, the losses, the sampler and the codecs."""
