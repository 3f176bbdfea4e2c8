"""What the adapter and its tests use of Isaac Lab: one table for the released package and for this simulator."""

USED = {
    "isaaclab.app:AppLauncher": """
        __init__(launcher_args, **kwargs)
        add_app_launcher_args(parser)
        properties: app
        attributes: device_id
    """,
    "isaaclab_tasks.utils:parse_env_cfg": """
        (task_name, device, num_envs, use_fabric)
    """,
    "isaaclab_tasks.utils:load_cfg_from_registry": """
        (task_name, entry_point_key)
    """,
    "isaaclab.envs:ManagerBasedRLEnv": """
        __init__(cfg, render_mode, **kwargs)
        reset(seed, env_ids, options) -> 2
        step(action) -> 5
        render(recompute)
        seed(seed)
        close()
        _reset_idx(env_ids)
        properties: num_envs, device, physics_dt, step_dt, max_episode_length, max_episode_length_s,
            get_IO_descriptors
        attributes: cfg, sim, scene, extras, metadata, render_mode, obs_buf, reward_buf, reset_buf, reset_terminated,
            reset_time_outs, episode_length_buf, common_step_counter, single_observation_space, single_action_space,
            observation_space, action_space, observation_manager, action_manager, command_manager, curriculum_manager,
            event_manager, reward_manager, termination_manager
    """,
    "isaaclab.envs:ManagerBasedRLEnvCfg": """
        attributes: seed, sim, scene, viewer, decimation, episode_length_s, is_finite_horizon, observations, actions,
            commands, curriculum, events, rewards, terminations, export_io_descriptors, log_dir
    """,
    "isaaclab.envs:DirectRLEnv": """
        __init__(cfg, render_mode, **kwargs)
        reset(seed, options) -> 2
        step(action) -> 5
        render(recompute)
        seed(seed)
        close()
        _reset_idx(env_ids)
        _get_observations()
        _get_states()
        _get_dones()
        _get_rewards()
        properties: num_envs, device, physics_dt, step_dt, max_episode_length, max_episode_length_s
        attributes: cfg, extras, reward_buf, reset_buf, reset_terminated, reset_time_outs, episode_length_buf,
            common_step_counter, single_observation_space, single_action_space, state_space, _action_noise_model,
            _observation_noise_model
    """,
    "isaaclab.envs:DirectRLEnvCfg": """
        attributes: seed, sim, scene, viewer, decimation, episode_length_s, is_finite_horizon, events,
            observation_space, state_space, action_space, observation_noise_model, action_noise_model
    """,
    "isaaclab.envs:DirectMARLEnv": "",
    "isaaclab.envs:ViewerCfg": """
        attributes: resolution, eye, lookat
    """,
    "isaaclab.sim:SimulationCfg": """
        attributes: device, dt, render_interval, use_fabric
    """,
    "isaaclab.sim:SimulationContext": """
        has_gui()
        has_rtx_sensors()
        forward()
        step(render)
        render(mode)
        reset(soft)
        clear_instance()
        properties: device
        attributes: render_mode
    """,
    "isaaclab.scene:InteractiveScene": """
        __getitem__(key)
        keys()
        reset(env_ids)
        write_data_to_sim()
        update(dt)
        properties: num_envs, articulations, env_origins
    """,
    "isaaclab.scene:InteractiveSceneCfg": """
        attributes: num_envs, env_spacing
    """,
    "isaaclab.assets:Articulation": """
        find_joints(name_keys, joint_subset, preserve_order)
        write_joint_state_to_sim(position, velocity, joint_ids, env_ids)
        set_joint_position_target(target, joint_ids, env_ids)
        set_joint_effort_target(target, joint_ids, env_ids)
        properties: data, num_joints, joint_names
    """,
    "isaaclab.assets:ArticulationData": """
        properties: joint_pos, joint_vel, root_lin_vel_b, root_ang_vel_b, projected_gravity_b
        attributes: joint_names, default_joint_pos, default_joint_vel, default_joint_stiffness, default_joint_damping,
            default_joint_pos_limits, joint_pos_limits, soft_joint_pos_limits, soft_joint_vel_limits,
            joint_vel_limits, joint_effort_limits, joint_stiffness, joint_damping, joint_armature,
            joint_friction_coeff, applied_torque
    """,
    "isaaclab.managers:ObservationManager": """
        compute(update_history)
        compute_group(group_name, update_history)
        reset(env_ids)
        properties: active_terms, group_obs_dim, group_obs_term_dim, group_obs_concatenate, get_IO_descriptors
        attributes: _group_obs_term_cfgs, _group_obs_term_history_buffer, _group_obs_class_instances,
            _group_obs_class_term_cfgs
    """,
    "isaaclab.managers:ObservationTermCfg": """
        attributes: func, params, modifiers, noise, clip, scale, history_length, flatten_history_dim
    """,
    "isaaclab.managers:ObservationGroupCfg": """
        attributes: concatenate_terms, concatenate_dim, enable_corruption, history_length, flatten_history_dim
    """,
    "isaaclab.utils.modifiers:ModifierBase": """
        __init__(cfg, data_dim, device)
        __call__(data)
        reset(env_ids)
    """,
    "isaaclab.utils.noise:NoiseModel": """
        __init__(noise_model_cfg, num_envs, device)
        __call__(data)
        reset(env_ids)
    """,
    "isaaclab.utils.noise:NoiseModelWithAdditiveBias": """
        attributes: _bias
    """,
    "isaaclab.utils.buffers:CircularBuffer": """
        __init__(max_len, batch_size, device)
        append(data)
        reset(batch_ids)
        properties: buffer, current_length, max_length
        attributes: _buffer, _num_pushes, _pointer
    """,
    "isaaclab.managers:ActionManager": """
        process_action(action)
        apply_action()
        get_term(name)
        reset(env_ids)
        properties: total_action_dim, action_term_dim, active_terms, action, prev_action, get_IO_descriptors
    """,
    "isaaclab.managers:ActionTerm": """
        process_actions(actions)
        apply_actions()
        properties: action_dim, raw_actions, processed_actions, IO_descriptor
        attributes: cfg, _asset
    """,
    "isaaclab.envs.mdp.actions.joint_actions:JointAction": """
        reset(env_ids)
        attributes: _joint_names, _joint_ids, _scale, _offset, _clip
    """,
    "isaaclab.envs.mdp.actions.joint_actions:JointPositionAction": """
        apply_actions()
    """,
    "isaaclab.envs.mdp.actions.joint_actions:JointEffortAction": """
        apply_actions()
    """,
    "isaaclab.envs.mdp.actions:JointPositionActionCfg": """
        attributes: asset_name, joint_names, scale, offset, clip, preserve_order, use_default_offset
    """,
    "isaaclab.managers:CommandManager": """
        get_command(name)
        get_term(name)
        compute(dt)
        reset(env_ids)
        properties: active_terms
    """,
    "isaaclab.managers:CommandTerm": """
        compute(dt)
        reset(env_ids)
        properties: command
        attributes: cfg, time_left, command_counter, metrics
    """,
    "isaaclab.managers:CurriculumManager": """
        compute(env_ids)
        reset(env_ids)
        properties: active_terms
        attributes: _term_names, _term_cfgs, _curriculum_state
    """,
    "isaaclab.managers:TerminationManager": """
        compute()
        reset(env_ids)
        get_term(name)
        properties: active_terms, terminated, time_outs, dones
    """,
    "isaaclab.managers:RewardManager": """
        compute(dt)
        reset(env_ids)
        get_term_cfg(term_name)
        set_term_cfg(term_name, cfg)
        properties: active_terms
        attributes: _term_cfgs
    """,
    "isaaclab.managers:RewardTermCfg": """
        attributes: weight, func, params
    """,
    "isaaclab.managers:EventManager": """
        apply(mode, env_ids, dt, global_env_step_count)
        reset(env_ids)
        properties: active_terms, available_modes
        attributes: _interval_term_time_left
    """,
}
"""Import path of a class or function -> what is used of it.

    name(arguments in order) -> length of the returned tuple        a method; without a name, the function itself
    properties: of the object
    attributes: of the object, or the fields of a configuration
"""

# What the adapter uses where a task has it, and the simulator here has not.
USED_OF_THE_RELEASE = {
    "isaaclab.scene:InteractiveScene": """
        properties: terrain, env_origins
    """,
    "isaaclab.terrains:TerrainImporter": """
        attributes: terrain_levels, terrain_types, env_origins
    """,
    "isaaclab.envs.mdp.commands.commands_cfg:UniformVelocityCommandCfg": """
        attributes: ranges
    """,
}

ORDER = {
    ("isaaclab.envs:ManagerBasedRLEnv", "step"): [
        "action_manager.process_action",
        "action_manager.apply_action",
        "scene.write_data_to_sim",
        "sim.step",
        "scene.update",
        "episode_length_buf",
        "common_step_counter",
        "termination_manager.compute",
        "reward_manager.compute",
        "_reset_idx",
        "command_manager.compute",
        "event_manager.apply",
        "observation_manager.compute",
        "reward_buf",
        "reset_terminated",
        "reset_time_outs",
        "extras",
    ],
    ("isaaclab.envs:ManagerBasedRLEnv", "_reset_idx"): [
        "curriculum_manager.compute",
        "scene.reset",
        "event_manager.apply",
        "observation_manager",
        "action_manager",
        "reward_manager",
        "curriculum_manager",
        "command_manager",
        "event_manager",
        "termination_manager",
        "episode_length_buf",
    ],
    ("isaaclab.envs:ManagerBasedRLEnv", "reset"): [
        "_reset_idx",
        "scene.write_data_to_sim",
        "sim.forward",
        "observation_manager.compute",
        "extras",
    ],
    ("isaaclab.envs:DirectRLEnv", "step"): [
        "_action_noise_model",
        "_pre_physics_step",
        "_apply_action",
        "scene.write_data_to_sim",
        "sim.step",
        "scene.update",
        "episode_length_buf",
        "common_step_counter",
        "_get_dones",
        "_get_rewards",
        "_reset_idx",
        "event_manager.apply",
        "_get_observations",
        "reward_buf",
        "reset_terminated",
        "reset_time_outs",
        "extras",
    ],
    ("isaaclab.envs:DirectRLEnv", "_reset_idx"): [
        "scene.reset",
        "event_manager.apply",
        "_action_noise_model.reset",
        "_observation_noise_model.reset",
        "episode_length_buf",
    ],
}
"""What a method does, in this order, of all that its source names: the hook on `_reset_idx` and the reading of buffers stand
on it."""

ADDED = {
    "isaaclab._kit": "stands for Omniverse Kit",
    "isaaclab.envs.utils.render": "a picture without a renderer",
    "isaaclab.assets.articulation.articulation:DynamicsView": "stands for the physics",
    "isaaclab.assets.articulation.articulation_cfg:Dynamics": "stands for the robot's file",
    "isaaclab.assets.articulation.articulation_cfg:InitialStateCfg": "nested in ArticulationCfg there",
    "isaaclab.envs.mdp.commands.commands_cfg:VelocityRanges": "nested in the command's configuration there",
    "isaaclab.sim.simulation_context:SimulationContext.instance": "of the base class, in Isaac Sim",
    "isaaclab.sim.simulation_context:SimulationContext.clear_all_callbacks": "of the base class, in Isaac Sim",
    "isaaclab.sim.simulation_context:SimulationContext.is_playing": "of the base class, in Isaac Sim",
    "isaaclab.sim.simulation_context:SimulationContext.on_play": "a timeline event there",
    "isaaclab.sim.simulation_context:SimulationContext.on_step": "the physics there",
    "isaaclab_tasks": "tasks are read by their configuration, not by their names",
}
"""What the simulator has where the release has nothing by that name, each with the reason."""

OPTIONS = {
    "--headless": False,
    "--livestream": -1,
    "--enable_cameras": False,
    "--xr": False,
    "--device": "cuda:0",
    "--verbose": False,
    "--info": False,
    "--experience": "",
    "--rendering_mode": None,
    "--kit_args": "",
}
"""The launcher's options and their defaults."""
