"""`densepose predict`: from files of images to files of maps, on this machine or by a server."""
