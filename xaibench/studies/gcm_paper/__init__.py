"""The study of Generative Contribution Mappings on ChestX-ray8, reproduced."""
