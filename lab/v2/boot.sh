# shellcheck shell=bash disable=SC2016,SC2034
# What the guest starts from, for lab/v2/run: a kernel, an initramfs and the system's image, each
# kept in the cache once made, and an image of this repository, made each time.

# Beside Elixir: what compiles the library, and what the guest starts and is tested with.
v2_packages=(elixir erlang-dev cargo rustc gcc libc6-dev ca-certificates busybox-static kmod util-linux)
# For the disk; a kernel may have some built in.
v2_modules=(virtio_pci virtio_blk ext4)

# v2_kernel DIRECTORY: Debian's kernel for clouds, without what its package would install beside it.
v2_kernel() {
  local tree=$1/tree boot=$1/boot
  [ ! "$boot/vmlinuz" -nt "$tree.packages" ] || return 0
  rm -rf "$boot" && mkdir -p "$boot"
  lab_in "$tree" bash -ec '
    directory=$(mktemp -d)
    cd "$directory"
    # From Debian 14 on it is in several packages.
    names=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
      --no-replaces --no-enhances linux-image-cloud-amd64 | grep -E "^linux-.*[0-9].*-cloud-" | sort -u)
    # As root: nobody else may write there.
    apt-get -q -o APT::Sandbox::User=root download $names
    for package in *.deb; do dpkg-deb -x "$package" kernel; done
    cp "$(find kernel -name "vmlinuz*" -type f | head -n 1)" /boot/vmlinuz
    rm -rf /lib/modules
    if [ -d kernel/usr/lib/modules ]; then mv kernel/usr/lib/modules /lib/; else mv kernel/lib/modules /lib/; fi
    version=$(basename /lib/modules/*)
    depmod "$version"
    rm -rf "$directory"' >"$boot/kernel.log" 2>&1 ||
    { cat "$boot/kernel.log" >&2; lab_fail "found no kernel"; }
  cp "$tree/boot/vmlinuz" "$boot/vmlinuz"
}

# v2_initrd DIRECTORY: what finds the disks. It takes a second, and is made each time.
v2_initrd() {
  local tree=$1/tree boot=$1/boot root module version path
  root=$(mktemp -d)
  version=$(basename "$tree"/lib/modules/*)
  mkdir -p "$root"/{bin,dev,proc,root}
  cp "$tree/bin/busybox" "$root/bin/"
  # Their own dependencies first, as modprobe would load them.
  for module in "${v2_modules[@]}"; do
    lab_in "$tree" modprobe --set-version "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
  done | awk '!seen[$0]++' | while read -r path; do
    cp "$tree$path" "$root/"
    path=$(basename "$path")
    case $path in *.xz) xz -d "$root/$path" && path=${path%.xz} ;; esac
    echo "$path"
  done >"$root/modules"
  cp lab/v2/guest/initramfs "$root/init"
  (cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$boot/initrd"
  rm -rf "$root"
}

# v2_system DIRECTORY: the system without what only the compiler needs.
v2_system() {
  local tree=$1/tree image=$1/system.ext4 root=$1/root
  [ ! "$image" -nt "$1/boot/vmlinuz" ] || return 0
  rm -rf "$root" "$image.new" && mkdir "$root"
  # Links, so that nothing is copied twice.
  cp -al "$tree"/{bin,sbin,lib,lib64,usr,etc,root,var} "$root/"
  rm -rf "$root"/usr/lib/{rustlib,gcc} "$root"/usr/lib/x86_64-linux-gnu/{libLLVM*,librustc*,libgccjit*} \
    "$root"/usr/libexec/gcc "$root"/usr/share/{perl,icons} "$root"/var/{cache,lib/apt/lists} "$root"/root/.cargo
  mkdir -p "$root"/{dev,proc,sys,run,tmp,oom,var/tmp}
  v2_image "$root" "$image" 512
  rm -rf "$root"
}

# v2_image ROOT IMAGE SPARE: an ext4 file system of what is in ROOT, and SPARE MiB.
v2_image() {
  local root=$1 image=$2 spare=$3 mib
  mib=$(($(du -sm "$root" | cut -f1) * 5 / 4 + spare))
  truncate -s "${mib}M" "$image.new"
  PATH=$PATH:/sbin:/usr/sbin mke2fs -q -F -t ext4 -m 0 -O ^has_journal -d "$root" "$image.new"
  mv "$image.new" "$image"
}

# v2_compile DIRECTORY: this repository in DIRECTORY/oom, compiled by the release's compilers, which
# takes a minute here and would take an hour in the emulator.
v2_compile() {
  local dir=$1 tree=$1/tree work=$1/oom
  mkdir -p "$work" "$tree/oom"
  git ls-files -z --cached --others --exclude-standard -- ':!docs' |
    while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done >"$dir/files"
  # What is gone from here goes there, too.
  (cd "$work" && find . -mindepth 1 -maxdepth 1 ! -name _build ! -name .cargo -exec rm -rf {} +)
  tar -c --null -T "$dir/files" | tar -x -C "$work"
  lab_env=(CARGO_HOME=/oom/.cargo MIX_ENV=test)
  lab_bind=("$work:/oom")
  lab_in "$tree" sh -ec '
    cd /oom
    mix compile --warnings-as-errors
    export MIX_ENV=prod OOM_NATIVE_PATH=$PWD/_build/test/lib/oom/priv/oom_nif.so
    mix compile --warnings-as-errors
    mkdir -p _build/arena
    elixirc --ignore-module-conflict --warnings-as-errors -pa _build/prod/lib/oom/ebin \
      -o _build/arena bench/arena/*.ex bench/arena/shapes/*.ex' >"$dir/compile.log" 2>&1 ||
    { tail -n 40 "$dir/compile.log" >&2; lab_fail "did not compile"; }
  lab_env=() lab_bind=()
}

# v2_work DIRECTORY: its image, without what cargo keeps for the next time.
v2_work() {
  local root=$1/work
  rm -rf "$root" && mkdir "$root"
  cp -al "$1/oom/." "$root/"
  rm -rf "$root/.cargo" "$root"/_build/*/oom_native
  v2_image "$root" "$1/work.ext4" 256
  rm -rf "$root"
}
