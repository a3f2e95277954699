"""What a release is made of: two versions compared, a manifest, a certificate, and the folder that keeps them."""
