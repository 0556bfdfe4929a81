# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
#
# The node on ROS 2 Lyrical with JAX for NVIDIA GPUs; CUDA comes from pip, the driver from the host
# (580 or newer, and the NVIDIA container toolkit). From the root of the repository:
#   docker build -f docker/lyrical.Dockerfile -t vggt_ros:lyrical .
# Passes hadolint; not yet built and run.
FROM ros:lyrical-ros-base

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /ws
COPY package.xml src/vggt_ros/package.xml
# Versions are those of the distribution. RViz runs elsewhere, and cv_bridge is not needed.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rosdep update --rosdistro lyrical \
    && rosdep install --from-paths src --ignore-src -y --skip-keys "cv_bridge rviz2" \
    && rm -rf /var/lib/apt/lists/*

# The one that requirements/core.txt pins, with CUDA; jax==0.10.2 is for a computer without GPU.
ARG JAX=jax[cuda13]==0.10.2
COPY requirements src/vggt_ros/requirements
RUN python3 -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir -c src/vggt_ros/requirements/lock.txt \
        -r src/vggt_ros/requirements/core.txt -r src/vggt_ros/requirements/graph.txt "${JAX}"
ENV PATH=/opt/venv/bin:$PATH

COPY . src/vggt_ros
RUN . /opt/ros/lyrical/setup.bash && colcon build && rm -rf build log

ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    FASTDDS_DEFAULT_PROFILES_FILE=/ws/install/vggt_ros/share/vggt_ros/config/fastdds.xml \
    FASTRTPS_DEFAULT_PROFILES_FILE=/ws/install/vggt_ros/share/vggt_ros/config/fastdds.xml
# Shared memory is between processes of one user: 1000 (ubuntu) is the first one of most hosts.
USER 1000
WORKDIR /home/ubuntu
# Compiled programs and weights; a volume on a folder that is there belongs to its owner.
RUN mkdir -p .cache data
ENTRYPOINT ["/bin/bash", "-c", "source /ws/install/setup.bash && exec \"$@\"", "--"]
CMD ["ros2", "launch", "vggt_ros", "vggt.launch.py"]
