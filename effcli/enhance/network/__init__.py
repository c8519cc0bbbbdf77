"""The WalMaFa network, part by part, and its evaluation in strips."""
