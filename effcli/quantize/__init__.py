"""Mixed-precision quantization of diffusion UNets with MPQ-DM (AAAI 2025): the operators, without a command as yet."""
