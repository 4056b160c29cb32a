"""Datasets: splits of images with labels, patients and regions."""
