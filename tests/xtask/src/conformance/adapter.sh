#!/bin/sh
n=$#
while [ $n -gt 0 ]; do
  argument=$1; shift; n=$((n - 1))
  case $argument in
    --cgroup-manager) shift; n=$((n - 1)) ;;
    --config) [ "$1" = config.json ] || cp "$1" config.json; shift; n=$((n - 1)) ;;
    *) set -- "$@" "$argument" ;;
  esac
done
exec "$RUNTIME" "$@"
