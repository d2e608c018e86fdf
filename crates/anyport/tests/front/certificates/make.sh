#!/bin/sh
# Makes the certificates of the tests anew: an authority, and servers' certificates by it. They say that they end in 2126.
set -eu
cd "$(dirname "$0")"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }
key "$folder/ca.key"
openssl req -x509 -new -key "$folder/ca.key" -days 36500 -subj "/CN=anyport tests" -out ca.pem \
    -addext "basicConstraints=critical,CA:true" -addext "keyUsage=critical,keyCertSign"
certify() {
    name=$1 names=$2
    openssl req -new -key "$name.key" -subj "/CN=$name" -out "$folder/request"
    printf 'subjectAltName=%s\nbasicConstraints=CA:false\n' "$names" >"$folder/extensions"
    openssl x509 -req -in "$folder/request" -CA ca.pem -CAkey "$folder/ca.key" -CAcreateserial -days 36500 \
        -extfile "$folder/extensions" -out "$name.pem"
}
key local.key
certify local "DNS:localhost,IP:127.0.0.1"
key other.key
certify other "DNS:other.example,DNS:*.wild.example"
key renewed.key
certify renewed "DNS:localhost,IP:127.0.0.1"
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key
certify rsa "DNS:localhost,IP:127.0.0.1"
rm -f ca.srl
