"""The pure cores of DHT and placement at sizes that no simulated world reaches: no streams, no disks."""
