"""The StreamDSGN network, part by part, from two pictures to boxes."""
