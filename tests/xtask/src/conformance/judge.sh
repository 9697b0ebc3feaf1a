# Runs each of the suite's files in $1, what they say goes to $2. The first process of a pid
# namespace: when it ends, so does everything that a test has left.
tests=$1 said=$2
# A test wants numbers of five digits.
echo 20000 > /proc/sys/kernel/ns_last_pid
if [ -n "$WITHOUT_UNIFIED" ] && [ -d /sys/fs/cgroup/unified ]; then
  umount /sys/fs/cgroup/unified || exit 1
fi
frozen=/sys/fs/cgroup/freezer/frozen/freezer.state
for test in "$tests"/test_*.py; do
  name=$(basename "$test" .py)
  timeout -k 5 120 python3 "$test" > "$said/$name.tap" 2> "$said/$name.err" < /dev/null
  # One freezes a container where its runtime does not look: frozen, it could not even be killed.
  [ ! -e $frozen ] || echo THAWED > $frozen
done
exit 0
