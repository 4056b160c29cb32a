"""torchxrayvision (Cohen et al. 2022) for xaibench: its DenseNet-121 weights and its datasets."""
