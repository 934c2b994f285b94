"""Certificates by objects of Kubernetes: CertificateSigningRequest and PodCertificateRequest."""
